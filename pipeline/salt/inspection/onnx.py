"""Export of a model as ONNX, the format that other runtimes read and https://netron.app shows."""

import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

# A side that is odd at every scale (65, 33, 17, 9, 5, 3), so that every resize of a map to the size of its skip is
# recorded; where sizes agree, resizing changes nothing.
RECORDED = 65  # px


class Probability(nn.Module):
    """(B, 3, H, W) images of 0..1 -> (B, 1, H, W) probabilities: normalisation, the model, sigmoid.

    The output of a model with a `y_range` is bounded already and left as it is.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.bounded = getattr(model, "y_range", None) is not None
        self.mean = nn.Buffer(torch.tensor(model.encoder.mean).view(3, 1, 1))
        self.std = nn.Buffer(torch.tensor(model.encoder.std).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        values = self.model((image - self.mean) / self.std)
        # int: the file then states the number of output channels, which it would not know after a final upsampling
        values = values.reshape(values.shape[0], int(values.shape[1]), *values.shape[2:])
        return values if self.bounded else torch.sigmoid(values)


def to_onnx(model: nn.Module) -> bytes:
    """Export `Probability` of the model for any batch and size: input `image`, output `probability`."""
    file: Any = io.BytesIO()  # torch takes it, but is typed for paths only
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        # The old exporter warns that it is old, but takes 2 s and no onnxscript; the new one takes 15 s.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Probability(model).cpu().eval(),
            (torch.rand(2, 3, RECORDED, RECORDED),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["probability"],
            dynamic_axes={"image": axes, "probability": axes},
        )
    return file.getvalue()


def difference(onnx: bytes, model: nn.Module, shape: tuple[int, int]) -> float:
    """Largest difference between the probabilities of the file, run by onnxruntime, and those of torch.

    shape  batch and side (px) of the random images
    """
    import onnxruntime

    batch, side = shape
    images = torch.rand(batch, 3, side, side)
    with torch.no_grad():
        expected = Probability(model).cpu().eval()(images).numpy()
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return float(abs(session.run(None, {"image": images.numpy()})[0] - expected).max())
