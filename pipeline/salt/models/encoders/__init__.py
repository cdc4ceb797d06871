"""Encoders: ImageNet classifiers cut down to their feature pyramid.

An encoder maps a batch (B, 3, H, W) to a list of feature maps, finest first. With the five strides 2, 4, 8, 16, 32 of
resnet34, (2, 3, 128, 128) becomes

    (2,  64, 64, 64)    stride 2, half the image's side
    (2,  64, 32, 32)    stride 4
    (2, 128, 16, 16)    stride 8
    (2, 256,  8,  8)    stride 16
    (2, 512,  4,  4)    stride 32

and with the four strides 4, 8, 16, 32 of a ConvNeXt (convnext_tiny) or Swin it becomes

    (2,  96, 32, 32)  (2, 192, 16, 16)  (2, 384, 8, 8)  (2, 768, 4, 4)

An encoder describes itself: `encoder.channels` (64, 64, 128, 256, 512), `encoder.strides` (2, 4, 8, 16, 32), and
`encoder.mean`, `encoder.std`, the statistics of each colour channel with which to normalise its input.

    contract.py      the base class Encoder, ImageNet's statistics
    timm_encoder.py  TimmEncoder: timm's own `features_only` models; needs torch and timm only
    sequential.py    SequentialEncoder: a plain sequence of layers that a model may inspect, change and cut
    table.py         ENCODERS, the known names
    build.py         an encoder from its name
    weights.py       ImageNet weights from a file, the cache or the known addresses
"""
