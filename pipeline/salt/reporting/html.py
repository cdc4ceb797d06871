"""Render the report as one HTML file that loads nothing else: report.html.jinja, filled with numbers and pictures."""

import jinja2
import pandas as pd

from pipeline.salt.reporting import figures, scores
from pipeline.salt.reporting.scores import Predictions
from pipeline.salt.submission import best_threshold


def render(
    results: dict,
    histories: dict[int, dict[str, pd.DataFrame]],
    examples: dict[str, list[dict]],
    defaults: dict[str, object],
    *,
    real: bool,
    own: bool = False,
) -> str:
    """The HTML of the report.

    results    the content of scores.json;  histories  fold -> phase -> what callbacks.EpochLog records
    examples   kind of example -> `pictures`
    defaults   the profile's settings before any change, named as in --set
    real       whether the tiles are real, not generated
    own        whether they are the user's own: then neither the article's score nor the medals apply
    """
    thresholds = {float(threshold): score for threshold, score in results["thresholds"].items()}
    references = {"article": scores.ARTICLE["mean"], **scores.MEDALS} if real and not own else {}
    charts = {
        "folds": figures.fold_scores(results["folds"], results["out_of_fold"]["mean"], references),
        "loss": figures.curves(
            histories, "loss", {"train_loss": "in training", "valid_loss": "on the fold's own tiles"}
        ),
        "score": figures.curves(histories, "score", {"meanap": "score"}),
        "lr": figures.curves(histories, "learning rate", {"lr": "learning rate"}),
        "speed": figures.curves(histories, "tiles/s", {"tiles_per_second": "tiles/s"}),
        "memory": figures.curves(histories, "peak memory, GiB", {"memory": "GiB"}),
        "thresholds": figures.thresholds(thresholds, results["threshold"]),
        "classes": figures.classes(results["classes"]),
        "losses": figures.losses(results["classes"]),
    }
    settings = results["settings"]
    changed = {name: defaults.get(name, "unset") for name, value in settings.items() if defaults.get(name) != value}
    sections: dict[str, list] = {}
    for name, value in settings.items():
        section = name.split(".")[0] if "." in name else "folds"
        if not (real and section == "sample"):
            sections.setdefault(section, []).append((name, value))
    return (
        templates()
        .get_template("report.html.jinja")
        .render(
            results,
            warnings=scores.warnings(results),
            charts=charts,
            examples=examples,
            thresholds=thresholds,
            best_threshold=best_threshold(thresholds),
            has_depths=any(tile["z"] is not None for kind in examples.values() for tile in kind),
            real=real,
            own=own,
            sections=sections,
            changed=changed,
            article=scores.ARTICLE,
            kinds=figures.KINDS,
            heat=figures.HEAT,
        )
    )


def templates() -> jinja2.Environment:
    """The environment that loads the templates in this folder."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.salt.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def pictures(table: pd.DataFrame, predictions: Predictions) -> list[dict]:
    """What the report shows of each tile: its row, image, probabilities, outlines of prediction and (if known) truth.

    Tiles larger than figures.LONGEST are reduced. z is None if the depth is unknown.
    """
    shown = []
    for (i, row), mask in zip(table.to_dict("index").items(), predictions.masks(table), strict=True):
        image = figures.reduced(predictions.images[i])
        truth = None if predictions.truth is None else figures.reduced(predictions.truth[i])
        shown.append(
            {
                **row,
                "z": row["z"] if pd.notna(row.get("z")) else None,
                "predicted": mask.mean(),
                "height": image.shape[0],
                "width": image.shape[1],
                "image": figures.picture(image),
                "heat": figures.heat(figures.reduced(predictions.probs[i])),
                "truth_path": "" if truth is None else figures.outline(truth),
                "predicted_path": figures.outline(figures.reduced(mask)),
            }
        )
    return shown
