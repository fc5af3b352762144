"""A page to try models on: drop a picture, hide a part of it, and see what they make of the rest.

    pip install "hf-mae[app]"
    python scripts/app.py
    python scripts/app.py --model_name_or_path runs/pretrain runs/finetune
    python scripts/app.py --model_name_or_path runs/pretrain --space runs/space

Without models it is the one in samples/. Pre-training models fill in what is hidden, classifiers
name what is on the picture, and of all of them the features of the patches are shown in colours;
several models stand side by side. The page is for this machine, at http://127.0.0.1:7860;
GRADIO_SERVER_NAME=0.0.0.0 opens it to others, and GRADIO_SERVER_PORT is another port. It loads
nothing from elsewhere and tells nobody of its use.

--space writes a folder that is a Space of the Hub as it stands, with the package and the models in
it, and ends; hf upload org/name runs/space --repo-type space puts it there.
"""

from early_help import answer_help, start


if __name__ == "__main__":
    answer_help(__file__)

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from huggingface_hub import snapshot_download

import hf_mae
from hf_mae import MAEConfig
from hf_mae.errors import DECODE_ERRORS, own_words, reported_as
from hf_mae.inference.reconstructions import read_mask
from hf_mae.inference.shown_models import (
    OWN,
    Asked,
    Shown,
    as_html,
    as_tag,
    describe,
    draw_canvas,
    draw_pictures,
    label_value,
    load_shown,
    read_pixel_values,
    say_unreadable,
    toggle_patch,
)
from hf_mae.models.configuration_mae import MASK_STRATEGIES
from hf_mae.training.command_line import CommandLine
from hf_mae.whole_files import check_folder


# a Space has all that it needs beside this file
_HERE = Path(__file__).resolve().parent
_ROOT = _HERE if (_HERE / "samples").is_dir() else _HERE.parent
SAMPLE = _ROOT / "samples" / "fashion-mnist-mae"
EXAMPLES = [SAMPLE / f"{name}.png" for name in ("ankle-boot", "bag", "pullover")]
OF_SPACE = "models"
MAX_FILE_BYTES = 20 * 2**20
MOST_MASKS = 4
# three pictures a row, of a mask each; single pixels stay sharp
CSS = """
.figures .prose { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; }
.figures figure, .figures img { margin: 0; width: 100%; image-rendering: pixelated; }
.figures figcaption { font-size: 0.8rem; }
#canvas img { image-rendering: pixelated; cursor: pointer; }
"""
# where on the picture it was clicked; gradio's own picture takes no click while it is exchanged
CLICK = """element.addEventListener("click", event => {
    const box = element.querySelector("img").getBoundingClientRect();
    const place = [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
    if (place.every(share => 0 <= share && share <= 1)) trigger("click", {place});
})"""
TITLE = "What is behind the patches?"


def main() -> None:
    args = parse_arguments()
    with reported_as("app.py"):
        if importlib.util.find_spec("gradio") is None:
            raise ValueError('the page needs gradio: pip install "hf-mae[app]"')
        if args.space:
            write_space(args.space, args.model_name_or_path)
            print(f"{args.space} is a Space: hf upload org/name {args.space} --repo-type space")
        else:
            serve([load_shown(name) for name in args.model_name_or_path])


def parse_arguments() -> argparse.Namespace:
    parser = CommandLine(
        description="A page to try models on: hide a part of a picture, and see what they make of "
        "the rest."
    )
    parser.add_argument(
        "--model_name_or_path",
        nargs="+",
        default=sorted(_ROOT.glob(f"{OF_SPACE}/*")) or [SAMPLE],
        metavar="MODEL",
        help="pre-training models, classifiers or encoders, side by side: folders or Hub ids "
        "(default: the one in samples/)",
    )
    parser.add_argument(
        "--space",
        type=Path,
        metavar="DIR",
        help="write a folder that is a Space of the Hub, with these models, and end",
    )
    return parser.parse_args()


# the page ----------------------------------------------------------------------------------------


def serve(models: Sequence[Shown]) -> None:
    """Serves the page until it is stopped."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    from gradio.themes import Default

    fonts = ["system-ui", "sans-serif"]
    build_page(models).launch(
        theme=Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
        max_file_size=MAX_FILE_BYTES,
        allowed_paths=[str(SAMPLE)],
        css=CSS,
        footer_links=[],
        share=False,
        ssr_mode=False,
    )


def build_page(models: Sequence[Shown]) -> Any:
    """Builds the page, `gradio.Blocks`: above what is asked, below what each model answers."""
    import gradio as gr

    painter = next(
        (shown for shown in models if shown.has_decoder), None
    )  # its patches are clicked
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(f"# {TITLE}")
        with gr.Row():
            controls = make_controls(painter)
        answers = []
        with gr.Row():
            for number, shown in enumerate(models):
                with gr.Column(min_width=320, elem_id=f"model-{number}"):
                    gr.Markdown(f"## {shown.name}")
                    if shown.is_classifier:
                        answers.append(gr.Label(label="On the picture"))
                    answers.append(gr.HTML(elem_classes="figures"))
        connect(page, models, painter, controls, answers)
    return page


class Controls(NamedTuple):
    """What is set on the page; `picture`, `seed` and `hidden` aren't seen."""

    picture: Any
    seed: Any
    hidden: Any
    file: Any
    shelf: Any
    kind: Any
    share: Any
    count: Any
    again: Any
    mask: Any
    canvas: Any
    said: Any


def make_controls(painter: Shown | None) -> Controls:
    import gradio as gr

    config = cast(MAEConfig, painter.model.config) if painter else MAEConfig()
    with gr.Column(min_width=320):
        size = f"up to {MAX_FILE_BYTES // 2**20} MB"
        file = gr.File(
            label=f"Your picture, {size}", type="filepath", height=130, elem_id="picture"
        )
        shelf = gr.Dataset(
            components=["image"],
            samples=[[str(path)] for path in EXAMPLES],
            type="index",
            label="or one of these",
        )
        with gr.Column(visible=painter is not None):
            kind = gr.Radio([*MASK_STRATEGIES, OWN], value=config.mask_strategy, label="Mask")
            share = gr.Slider(
                0, 0.95, config.mask_ratio, step=0.05, label="Share of patches hidden"
            )
            count = gr.Slider(1, MOST_MASKS, 1, step=1, label="Masks, each of its own seed")
            again = gr.Button("Draw other masks")
            mask = gr.UploadButton("Take a mask from a picture: white is hidden")
    with gr.Column(min_width=320, visible=painter is not None):
        gr.Markdown("Click patches on and off:")
        canvas = gr.HTML(js_on_load=CLICK, elem_id="canvas")
        said = gr.Markdown(elem_id="said")
    picture, seed, hidden = gr.State(str(EXAMPLES[0])), gr.State(0), gr.State(None)
    return Controls(
        picture, seed, hidden, file, shelf, kind, share, count, again, mask, canvas, said
    )


def connect(
    page: Any,
    models: Sequence[Shown],
    painter: Shown | None,
    controls: Controls,
    answers: Sequence[Any],
) -> None:
    """Says what happens when something is set or clicked."""
    import gradio as gr

    def show(file: str, kind: str, ratio: float, count: int, seed: int, own: Any) -> list[Any]:
        asked = Asked(file, kind, ratio, range(seed, seed + int(count)), own)
        with problems_on_page():
            return [*show_canvas(painter, asked), *answer(models, asked)]

    def take(file: str, picture: str) -> tuple[str, None]:
        """The new picture, or the one that is there; and the field for the next is empty."""
        try:
            for shown in models:
                read_pixel_values(shown, file)
        except DECODE_ERRORS as error:
            gr.Warning(say_unreadable(file, error), duration=None)
            return picture, None
        return file, None

    def choose(number: int) -> str:
        return str(EXAMPLES[number])

    def click(hidden: Any, clicked: gr.EventData) -> tuple[Any, str]:
        with problems_on_page():
            return toggle_patch(hidden, cast(Any, clicked).place), OWN

    def take_mask(file: str) -> tuple[Any, str]:
        assert painter is not None
        try:
            return read_mask(file, painter.grid_size).numpy(), OWN
        except ValueError as error:
            said = say_unreadable(file, error)
            raise gr.Error(said, duration=None, print_exception=False) from error

    def draw_others(kind: str, count: int, seed: int) -> tuple[str, int]:
        return (MASK_STRATEGIES[0] if kind == OWN else kind), seed + int(count)

    c = controls
    redraw: dict[str, Any] = {
        "fn": show,
        "inputs": [c.picture, c.kind, c.share, c.count, c.seed, c.hidden],
        "outputs": [c.canvas, c.said, c.hidden, c.share, c.count, *answers],
        "show_progress": "minimal",
        "trigger_mode": "always_last",  # what is set while the models answer counts, too
    }
    page.load(**redraw)
    c.file.upload(take, [c.file, c.picture], [c.picture, c.file]).success(**redraw)
    c.shelf.click(choose, c.shelf, c.picture).success(**redraw)
    c.again.click(draw_others, [c.kind, c.count, c.seed], [c.kind, c.seed]).success(**redraw)
    c.mask.upload(take_mask, c.mask, [c.hidden, c.kind]).success(**redraw)
    c.canvas.click(click, c.hidden, [c.hidden, c.kind], trigger_mode="multiple").success(**redraw)
    for setting in (c.kind, c.share, c.count):
        setting.input(**redraw)


def show_canvas(painter: Shown | None, asked: Asked) -> list[Any]:
    """What is clicked, what is said of it, the mask, and whether a mask is drawn by the sliders."""
    import gradio as gr

    is_drawn = gr.update(interactive=asked.kind != OWN)
    if painter is None:
        return [None, "", None, is_drawn, is_drawn]
    canvas, hidden = draw_canvas(painter, asked)
    new = gr.skip() if hidden is asked.own else hidden  # more may have been clicked meanwhile
    said = describe(painter, hidden)
    return [as_tag(canvas, said), said, new, is_drawn, is_drawn]


def answer(models: Sequence[Shown], asked: Asked) -> list[Any]:
    """What each model answers, in the order in which `build_page` shows it."""
    values = []
    for shown in models:
        if shown.is_classifier:
            values.append(label_value(shown, asked.picture))
        values.append(as_html(draw_pictures(shown, asked)))
    return values


@contextlib.contextmanager
def problems_on_page() -> Iterator[None]:
    """Shows what the user can mend on the page, until it is closed."""
    import gradio as gr

    try:
        yield
    except DECODE_ERRORS as error:
        raise gr.Error(own_words(error), duration=None, print_exception=False) from error


# a Space -----------------------------------------------------------------------------------------


def write_space(folder: Path, models: Sequence[str | Path]) -> None:
    """Writes all that a Space needs: page, package, models, examples and requirements.

    Raises:
        ValueError: there is something in the folder, or a model is none that the page can show.
        OSError: a model can't be read.
    """
    import gradio as gr

    check_folder(folder)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    for model in models:
        shown = load_shown(model)
        local = model if Path(model).is_dir() else snapshot_download(str(model))
        copy_model(Path(local), folder / OF_SPACE / shown.name)
    leave_out = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(Path(hf_mae.__file__).parent, folder / "hf_mae", ignore=leave_out)
    (folder / "samples" / SAMPLE.name).mkdir(parents=True)
    for example in EXAMPLES:
        shutil.copy(example, folder / "samples" / SAMPLE.name)
    for file in (Path(__file__), Path(__file__).with_name("early_help.py")):
        shutil.copy(file, folder / file.name)
    header = {
        "title": TITLE,
        "sdk": "gradio",
        "sdk_version": gr.__version__,
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
    }
    text = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n{(__doc__ or '').splitlines()[0]}\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    needed = importlib.metadata.requires("hf-mae") or []
    lines = [line for line in needed if "extra ==" not in line]
    (folder / "requirements.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def copy_model(source: Path, target: Path) -> None:
    """Copies what a model is loaded from, and no checkpoints or logs."""
    for pattern in ("*config.json", "*.safetensors", "*.safetensors.index.json"):
        for file in [*source.glob(pattern), *source.glob(f"pretraining/{pattern}")]:
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)


if __name__ == "__main__":
    start(main)
