"""Renders the report as one HTML file that loads nothing: report.html.jinja, filled with numbers and pictures."""

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
    """The report's HTML.

    results    what scores.json holds;  histories  fold -> phase -> what callbacks.EpochLog keeps
    examples   kind of example -> `pictures`
    defaults   the profile's settings before any change, by the names that --set takes
    real       the tiles are not generated
    own        they are not the competition's, so that neither the article's score nor the medals mean something
    """
    thresholds = {float(threshold): score for threshold, score in results["thresholds"].items()}
    references = {"article": scores.ARTICLE["mean"], **scores.MEDALS} if real and not own else {}
    charts = {
        "folds": figures.fold_scores(results["folds"], results["out_of_fold"]["mean"], references),
        "loss": figures.learning_curves(histories, "loss"),
        "score": figures.learning_curves(histories, "score"),
        "thresholds": figures.thresholds(thresholds, results["threshold"]),
        "classes": figures.classes(results["classes"]),
    }
    settings = results["settings"]
    changed = {name: defaults.get(name, "unset") for name, value in settings.items() if defaults.get(name) != value}
    sections: dict[str, list] = {}
    for name, value in settings.items():
        section = name.split(".")[0] if "." in name else "folds"
        if not (real and section == "sample"):
            sections.setdefault(section, []).append((name, value))
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.salt.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return templates.get_template("report.html.jinja").render(
        results,
        warnings=scores.warnings(results),
        charts=charts,
        examples=examples,
        has_depths=any(tile["z"] == tile["z"] for tiles in examples.values() for tile in tiles),
        thresholds=thresholds,
        best_threshold=best_threshold(thresholds),
        real=real,
        own=own,
        sections=sections,
        changed=changed,
        article=scores.ARTICLE,
        colour=figures.colour,
    )


def pictures(table: pd.DataFrame, predictions: Predictions) -> list[dict]:
    """For each tile what the report shows: its row, its image, the outlines of truth (if known) and prediction."""
    return [
        {
            **row,
            "predicted": mask.mean(),
            "image": figures.png(predictions.images[i]),
            "width": mask.shape[1],
            "height": mask.shape[0],
            "truth_path": "" if predictions.truth is None else figures.outline(predictions.truth[i]),
            "predicted_path": figures.outline(mask),
        }
        for (i, row), mask in zip(table.to_dict("index").items(), predictions.masks(table), strict=True)
    ]
