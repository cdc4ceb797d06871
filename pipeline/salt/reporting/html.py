"""The report as one HTML file that loads nothing: report.html.jinja, filled with numbers and pictures."""

import jinja2
import pandas as pd

from pipeline.salt.reporting import figures, scores
from pipeline.salt.reporting.scores import Predictions


def render(
    found: dict, histories: dict, cuts: dict[float, float], groups: dict[str, list[dict]], usual: dict, *, real: bool
) -> str:
    """The page.

    found      what scores.json holds;  histories, cuts  as in salt.scores
    groups     kind of example -> `pictures`;  usual  the profile's settings as they come, by the names of flat
    real       the tiles are the competition's, so that the article's score and the medals mean something
    """
    references = {"article": scores.ARTICLE["mean"], **scores.MEDALS} if real else {}
    charts = {
        "folds": figures.fold_scores(found["folds"], found["out_of_fold"]["mean"], references),
        "loss": figures.learning_curves(histories, "loss"),
        "score": figures.learning_curves(histories, "score"),
        "thresholds": figures.thresholds(cuts, found["threshold"]),
        "classes": figures.classes(found["classes"]),
    }
    changed = {name: usual.get(name, "unset") for name, value in found["settings"].items() if usual.get(name) != value}
    sections: dict[str, list] = {}
    for name, value in found["settings"].items():
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
        found,
        charts=charts,
        groups=groups,
        cuts=cuts,
        best_cut=max(cuts, key=cuts.__getitem__),
        real=real,
        sections=sections,
        changed=changed,
        article=scores.ARTICLE,
        colour=figures.colour,
    )


def pictures(tiles: pd.DataFrame, found: Predictions) -> list[dict]:
    """What is shown of each tile: its row of the table, its image, the outlines of truth (if known) and prediction."""
    return [
        {
            **row,
            "predicted": mask.mean(),
            "image": figures.png(found.images[i]),
            "truth_path": "" if found.truth is None else figures.outline(found.truth[i]),
            "predicted_path": figures.outline(mask),
        }
        for (i, row), mask in zip(tiles.to_dict("index").items(), found.masks(tiles), strict=True)
    ]


def flat(settings: dict, prefix: str = "") -> dict[str, object]:
    """Settings by the names that --set takes: {'train.128.epochs': 12}."""
    rows = {}
    for name, value in settings.items():
        if prefix + name in ("name", "about"):
            continue
        if name == "stages":
            for stage in value:
                rows |= {f"{prefix}{stage['size']}.{key}": number for key, number in stage.items() if key != "size"}
        elif isinstance(value, dict) and value:
            rows |= flat(value, f"{prefix}{name}.")
        else:
            rows[prefix + name] = value
    return rows
