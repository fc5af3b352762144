# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What scripts/app.py shows of models: pictures, captions and labels, without the page."""

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.transforms import ProcessorTransform
from ..errors import own_words
from ..models.configuration_mae import MASK_STRATEGIES, read_fields
from ..models.image_processing_mae import MAEImageProcessor
from ..models.loading import check_model_source, load_classifier, load_model, num_channels
from ..models.model_files import architecture
from ..models.modeling_mae import MAEForPreTraining
from ..models.pictures import open_picture, to_pixels
from ..models.problem_types import REGRESSION, answer_scores
from .feature_pictures import components_as_colours, to_pictures
from .features import grid_and_width
from .predictions import Prediction, finite, rank
from .reconstructions import (
    BORROWED,
    Reconstructions,
    displayable,
    draw_masks,
    read_mask,
    reconstruct_images,
)


OWN = "own"  # a mask that is clicked
_SHOWN_SIDE = 336  # pixels at least: that those of small models can be seen, and patches clicked


class Shown(NamedTuple):
    """A model on the page, in evaluation mode, and its image processor."""

    name: str
    model: PreTrainedModel
    processor: BaseImageProcessor

    @property
    def has_decoder(self) -> bool:
        return isinstance(self.model, MAEForPreTraining)

    @property
    def is_classifier(self) -> bool:
        return "ForImageClassification" in type(self.model).__name__

    @property
    def grid_size(self) -> tuple[int, int]:
        return grid_and_width(cast(PreTrainedModel, self.model.base_model))[0]


class Asked(NamedTuple):
    """What is set on the page.

    Attributes:
        picture: A file.
        kind: Of the mask: random, block or own.
        ratio: Share of patches to hide.
        seeds: Of the masks.
        own: (rows, columns), true for patches that are hidden; None until one is clicked.
    """

    picture: str
    kind: str
    ratio: float
    seeds: Sequence[int]
    own: np.ndarray | None = None


def load_shown(model_name_or_path: str | Path) -> Shown:
    """Loads a model of any kind that the page can show, onto the GPU if there is one.

    Raises:
        ValueError: it is of another kind, or damaged.
        OSError: there is none.
    """
    check_model_source(model_name_or_path)
    fields, _ = read_fields(model_name_or_path)
    is_classifier = "ForImageClassification" in architecture(fields)
    load = load_classifier if is_classifier else load_model
    model, processor = load(model_name_or_path)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # pyright: ignore[reportArgumentType]
    name = os.path.basename(os.path.normpath(model_name_or_path))
    return Shown(name, cast(PreTrainedModel, model), processor)


def read_pixel_values(shown: Shown, file: str | Path) -> torch.Tensor:
    """Reads a picture for a model: (1, C, H, W), on its device.

    Raises:
        One of `errors.DECODE_ERRORS`: it can't be decoded, or has too many pixels.
    """
    transform = ProcessorTransform(shown.processor)
    pixels = to_pixels(open_picture(file), num_channels(shown.model), transform.values)
    pixel_values = transform(pixels)["pixel_values"].unsqueeze(0)
    return pixel_values.to(shown.model.device)


def say_unreadable(file: str, error: Exception) -> str:
    """Says why a file can't be shown, by its name alone: its folder is the server's.

    Example:

    >>> say_unreadable("/tmp/a1/cut.png", OSError("image file is truncated"))
    "cut.png can't be read: image file is truncated"
    """
    name = os.path.basename(file)
    said = own_words(error).replace(file, name)
    return said if said.startswith(name) else f"{name} can't be read: {said}"


def choose_masks(shown: Shown, asked: Asked) -> list[np.ndarray]:
    """The masks that are asked for, (rows, columns) each: one a seed, or one's own.

    Raises:
        ValueError: no patch would stay visible.
    """
    if asked.kind == OWN and asked.own is not None:
        return [fit_mask(asked.own, shown.grid_size)]
    model = cast(MAEForPreTraining, shown.model)
    masks = []
    for seed in asked.seeds:
        kind = asked.kind if asked.kind in MASK_STRATEGIES else None
        hidden = draw_masks(model, 1, kind, asked.ratio, seed)
        masks.append(hidden.view(shown.grid_size).cpu().numpy())
    return masks


def fit_mask(hidden: np.ndarray, grid_size: tuple[int, int]) -> np.ndarray:
    """Carries a mask over to another model's patches.

    Raises:
        ValueError: there it would hide nothing or everything.
    """
    if hidden.shape == grid_size:
        return hidden
    return read_mask(hidden.astype(np.uint8) * 255, grid_size).numpy()


def toggle_patch(hidden: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    """Hides the patch at a point of a picture, or shows it.

    Args:
        hidden: (rows, columns), true for patches that are hidden.
        point: Shares of the picture from the left and from the top, 0 to 1.

    Raises:
        ValueError: no patch would stay visible.

    Example:

    >>> toggle_patch(np.array([[False, True], [False, True]]), (0.15, 0.05)).tolist()
    [[True, True], [False, True]]
    """
    rows, columns = hidden.shape
    row, column = min(rows - 1, int(point[1] * rows)), min(columns - 1, int(point[0] * columns))
    changed = hidden.copy()
    changed[row, column] = not hidden[row, column]
    if changed.all():
        raise ValueError("one patch has to stay visible")
    return changed


def draw_pictures(shown: Shown, asked: Asked) -> list[tuple[np.ndarray, str]]:
    """Pictures of a model with their captions: what it fills in, and its features in colours."""
    pixel_values = read_pixel_values(shown, asked.picture)
    pictures = []
    if shown.has_decoder:
        for number, hidden in enumerate(choose_masks(shown, asked)):
            seed = "" if asked.kind == OWN else f", seed {asked.seeds[number]}"
            made = fill_in(shown, pixel_values, hidden)
            for image, caption in zip(made, (f"masked{seed}", "reconstructed", "pasted")):
                pictures.append((displayable(image[0]), caption))
    (seen,) = to_pictures(shown.processor, pixel_values)
    pictures.append((seen, "what the model sees"))
    pictures.append((feature_colours(shown, pixel_values), "features of its patches"))
    return pictures


def fill_in(shown: Shown, pixel_values: torch.Tensor, hidden: np.ndarray) -> Reconstructions:
    """Fills in what a mask (rows, columns) hides of a picture (1, C, H, W)."""
    model = cast(MAEForPreTraining, shown.model)
    processor = cast(MAEImageProcessor, shown.processor)
    removed = torch.from_numpy(hidden).view(1, -1)
    return reconstruct_images(model, processor, pixel_values, removed)


def draw_canvas(shown: Shown, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
    """The picture to click on, with the lines between the patches, and the mask on it."""
    pixel_values, hidden = read_pixel_values(shown, asked.picture), choose_masks(shown, asked)[0]
    canvas = enlarge(displayable(fill_in(shown, pixel_values, hidden).masked[0]))
    rows, columns = hidden.shape
    canvas[:: canvas.shape[0] // rows] //= 2
    canvas[:, :: canvas.shape[1] // columns] //= 2
    return canvas, hidden


@torch.no_grad()
def feature_colours(shown: Shown, pixel_values: torch.Tensor) -> np.ndarray:
    """The first three principal components of a picture's patch features as red, green and blue."""
    tokens = cast(Any, shown.model.base_model)(pixel_values).last_hidden_state
    patches = finite(tokens)[:, 1:].float().cpu().numpy()
    colours = components_as_colours(patches).reshape(*shown.grid_size, 3)
    height, width = pixel_values.shape[2:]
    return np.array(Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST))


@torch.no_grad()
def find_labels(shown: Shown, file: str) -> list[Prediction]:
    """What a classifier answers, from the most probable label down."""
    logits = finite(cast(Any, shown.model)(read_pixel_values(shown, file)).logits)
    config: Any = shown.model.config
    return rank(answer_scores(logits, config.problem_type)[0].cpu(), config)


def label_value(shown: Shown, file: str) -> str | dict[str, float]:
    """The same as the page's labels have it: probabilities by name, or a regression's values."""
    answers = find_labels(shown, file)
    if cast(Any, shown.model.config).problem_type == REGRESSION:
        return ", ".join(f"{answer['label']} {answer['score']:.4g}" for answer in answers)
    return {answer["label"]: answer["score"] for answer in answers}


def enlarge(image: np.ndarray) -> np.ndarray:
    """Repeats the pixels of a small picture, (H, W) or (H, W, C), to the size of the canvas."""
    times = -(-_SHOWN_SIDE // max(image.shape[:2]))
    return image.repeat(times, axis=0).repeat(times, axis=1)


def as_html(pictures: Sequence[tuple[np.ndarray, str]]) -> str:
    """Pictures with their captions as figures."""
    figures = []
    for image, caption in pictures:
        text = f"<figcaption>{html.escape(caption)}</figcaption>"
        figures.append(f"<figure>{as_tag(image, caption)}{text}</figure>")
    return "\n".join(figures)


def as_tag(image: np.ndarray, description: str) -> str:
    """A picture as HTML that holds its pixels itself."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">'


def describe(shown: Shown, hidden: np.ndarray) -> str:
    """Says below the canvas what is hidden, and of which model pictures flatter."""
    text = f"{hidden.sum()} of {hidden.size} patches are hidden."
    if cast(Any, shown.model.config).norm_pix_loss:
        text += f" {BORROWED}."
    return text
