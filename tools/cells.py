"""The cells of a notebook as sanitised HTML, each with the task that it belongs to.

tools/team.py calls it for what a team has handed in. The HTML that comes out loads
nothing: no script, style, frame or address; tables and images stay.
"""

import base64
import functools
import hashlib
import html
import re
from pathlib import Path

import bleach
from nbconvert import HTMLExporter
from nbformat.v4 import new_notebook, new_output

# --- Which cell belongs to which task -------------------------------------------------

HEADING = re.compile(
    r"^(?:#{1,6}\s+(.+)|\*\*(.+)\*\*|<h[1-6][^>]*>(.+)</h[1-6]>)\s*$",
    re.MULTILINE | re.IGNORECASE,
)
NAMED_TASK = re.compile(r"\b(?:task|exercise|problem)\W*([1-5])\b", re.IGNORECASE)
NUMBERED = re.compile(r"\W*(?:2\.(?=[1-5]))?([1-5])(?:[.):]|\s)")
QUESTION = re.compile(r"(?<![\d.])1\.([1-5])(?!\d)")
# The heading of part 2 has a number, too, and these are behind the last task.
WHOLE_PART = re.compile("identifying land use", re.IGNORECASE)
BEHIND = re.compile(
    "references|declaration|appendix|beyond the|acknowledg|corrections", re.IGNORECASE
)
TITLES = {  # words of a heading without a number
    "1": re.compile("transform the data", re.IGNORECASE),
    "2": re.compile("implement.*(convolution|neural|cnn)", re.IGNORECASE),
    "3": re.compile("tune.*hyperparameter", re.IGNORECASE),
    "4": re.compile("load and fine-?tune|pre-?trained model", re.IGNORECASE),
    "5": re.compile("compare models|discuss results", re.IGNORECASE),
}
# For notebooks without headings: what a cell of the task defines, or else uses after a
# cell of these tasks.
DEFINES = {
    "1": re.compile(
        r"^(def (rotate_picture|plot_histogram)|class RotateEuroSAT)\b", re.M
    ),
    "2": re.compile(r"^class (MyMaxPool|MyCNNModel|Trainer)\b", re.MULTILINE),
    "3": re.compile(r"^def grid_search\b", re.MULTILINE),
}
USES = {
    "4": re.compile(r"^[^#\n]*\b(timm|models)\.\w+\(|pretrained=True", re.MULTILINE),
    "5": re.compile(r"Accuracy \(train\)|DataFrame\(|^#+ .*discussion", re.I | re.M),
}
AFTER = {"4": ("2", "3"), "5": ("4",)}
BEGIN = "<!-- BEGIN QUESTION -->"
END = "<!-- END QUESTION -->"


def headings(cell):
    """The texts of the headings in a cell of Markdown."""
    if cell.cell_type != "markdown":
        return []
    return ["".join(groups) for groups in HEADING.findall(cell.source)]


def task_of(heading):
    """The task that a heading opens, "" behind the last one; None if neither."""
    if WHOLE_PART.search(heading):
        return None
    named = NAMED_TASK.search(heading)
    if named:
        return named.group(1)
    numbered = NUMBERED.match(heading)
    if numbered:
        return numbered.group(1)
    for task, title in TITLES.items():
        if title.search(heading):
            return task
    if BEHIND.search(heading):
        return ""
    return None


def tasks(cells):
    """The task of each cell, "1" to "5", or "" before the first and behind the last.

    By the headings, or if they name fewer than two tasks, by what the cells define.
    """
    found = tasks_by_headings(cells)
    if len(set(found) - {""}) < 2:
        found = tasks_by_names(cells)
    return found


def tasks_by_headings(cells):
    current = ""
    found = []
    for cell in cells:
        for heading in headings(cell):
            task = task_of(heading)
            if task is not None:
                current = task
        found.append(current)
    return found


def tasks_by_names(cells):
    """A cell that defines nothing belongs to the task of the cell before it."""
    current = ""
    found = []
    for cell in cells:
        for task, words in DEFINES.items():
            if words.search(cell.source):
                current = task
        for task, words in USES.items():
            if current in AFTER[task] and words.search(cell.source):
                current = task
        found.append(current)
    return found


def questions(cells):
    """The question of each cell of part 1: "1.1" to "1.5", "" if without a number.

    None for a cell that is no answer: outside of the fences where there are any, before
    the first heading with a number and behind the last question.
    """
    has_fences = any(BEGIN in cell.source for cell in cells)
    numbers = []
    current = None
    is_open = False
    for cell in cells:
        is_inside = is_open or BEGIN in cell.source
        is_open = is_inside and cell.source.rfind(END) <= cell.source.rfind(BEGIN)
        for heading in headings(cell):
            number = QUESTION.search(heading)
            if number:
                current = f"1.{number.group(1)}"
            elif BEHIND.search(heading):
                current = None
        if has_fences and not is_inside:
            numbers.append(None)
        elif has_fences and current is None:
            numbers.append("")
        else:
            numbers.append(current)
    return numbers


# --- Outputs of a bearable size -------------------------------------------------------

MOST_TEXT = 20_000  # characters of one output
MOST_IMAGE = 4_000_000  # characters of one image in base64
MOST_OUTPUTS = 40  # of one cell
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def cut_outputs(outputs):
    """The outputs without what is too long, which a sentence replaces."""
    cut = [cut_output(output) for output in outputs[:MOST_OUTPUTS]]
    more = len(outputs) - MOST_OUTPUTS
    if more > 0:
        cut.append(told(f"{more} more outputs of this cell are left out."))
    return cut


def cut_output(output):
    if output.output_type == "stream":
        return new_output("stream", name=output.name, text=cut_text(output.text))
    if output.output_type == "error":
        lines = "\n".join(output.traceback)
        return new_output(
            "error",
            ename=cut_text(output.ename),
            evalue=cut_text(output.evalue),
            traceback=[cut_text(lines)],
        )
    return cut_display(output)


def cut_display(output):
    """One form of what is displayed: an image, else HTML, Markdown or text."""
    data = output.data
    for form in IMAGES:
        if form in data:
            return cut_image(form, data[form], output)
    if "image/svg+xml" in data:  # as an image, its scripts do not run
        content = base64.b64encode(data["image/svg+xml"].encode()).decode()
        return cut_image("image/svg+xml", content, output)
    for form in ("text/html", "text/markdown", "text/latex"):
        text = data.get(form, "")
        if 0 < len(text) <= 10 * MOST_TEXT and has_content(text):
            return new_output("display_data", data={form: text})
    if "text/plain" in data:
        text = cut_text(data["text/plain"])
        return new_output("display_data", data={"text/plain": text})
    forms = ", ".join(sorted(data))
    return told(f"An output that is not shown here: {forms[:200]}.")


def has_content(text):
    """Is anything left of this HTML without scripts?"""
    left = without_hidden(text)
    return "<img" in left or re.sub("<[^>]*>", "", left).strip() != ""


def cut_image(form, content, output):
    content = re.sub(r"\s", "", content)
    if len(content) > MOST_IMAGE:
        megabytes = len(content) / 1e6
        return told(f"An image of {megabytes:.0f} MB is left out.")
    alt = output.get("metadata", {}).get(form, {}).get("alt", "")
    address = f"data:{form};base64,{content}"
    image = f'<img src="{html.escape(address)}" alt="{html.escape(str(alt))}">'
    return new_output("display_data", data={"text/html": image})


def cut_text(text):
    """A text of at most 20,000 characters, and the sentence that it was longer."""
    if len(text) <= MOST_TEXT:
        return text
    left_out = len(text) - MOST_TEXT
    return f"{text[:MOST_TEXT]}\n[{left_out:,} more characters are left out here.]"


def told(sentence):
    return new_output("display_data", data={"text/plain": f"[{sentence}]"})


# --- HTML -----------------------------------------------------------------------------

TAGS = (
    "a abbr b blockquote br caption code col colgroup dd del div dl dt em h1 h2 h3 h4 "
    "h5 h6 hr i img ins kbd li ol p pre q s samp small span strong sub sup table tbody "
    "td tfoot th thead tr u ul var"
).split()
HIDDEN = re.compile(  # what is no text of a page goes with its content
    r"<(script|style|svg|iframe|object|template|noscript|head|title|math)\b"
    r".*?(</\1\s*>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
IMAGE_ADDRESS = re.compile(
    r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[\w+/=]+", re.ASCII
)
CLASSES = re.compile(r"highlight( hl-\w+)?|\w{1,3}", re.ASCII)
NO_ALT = "an image without a description"


def is_allowed(tag, name, value):
    """May this attribute of other people's HTML stay?"""
    if tag == "img":
        if name == "src":
            return IMAGE_ADDRESS.fullmatch(value) is not None
        return name == "alt"
    if tag in ("td", "th"):
        return name in ("colspan", "rowspan") and re.fullmatch(r"\d{1,3}", value)
    if name == "class":  # the colours of code
        return tag in ("span", "div") and CLASSES.fullmatch(value)
    return tag == "ol" and name == "start" and value.isdigit()


@functools.cache
def cleaner():
    return bleach.Cleaner(
        tags=TAGS, attributes=is_allowed, protocols=["data"], strip=True
    )


def without_hidden(text):
    """HTML without scripts, styles and frames. This serves the reader alone: what is
    safe is decided by the cleaner."""
    return HIDDEN.sub("", text)


def sanitise(text):
    """Other people's HTML as a part of a page: nothing in it runs or is loaded."""
    clean = cleaner().clean(without_hidden(text))
    # Headings of a page are its own, so that their order stays right.
    clean = re.sub(r"<h[1-6]>", '<p class="heading">', clean)
    clean = re.sub(r"</h[1-6]>", "</p>", clean)
    clean = re.sub(r"<th([^>]*)>\s*</th>", r"<td\1></td>", clean)
    return re.sub(r"<img\b[^>]*>", finish_image, clean).strip()


def finish_image(match):
    """An image with a description, or in place of one that is not at hand, a text."""
    tag = match.group()
    alt = re.search(r'\balt="([^"]*)"', tag)
    text = alt.group(1).strip() if alt else ""
    source = re.search(r'\bsrc="[^"]*"', tag)
    if source is None:
        return f"[image that is not in the notebook: {text or 'no description'}]"
    return f'<img {source.group()} alt="{text or NO_ALT}">'


@functools.cache
def exporter(hides_input):
    return HTMLExporter(
        template_name="basic",
        exclude_input=hides_input,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )


def render(cell, hides_input=False):
    """A cell as sanitised HTML, with nbconvert's renderer."""
    body, _ = exporter(hides_input).from_notebook_node(new_notebook(cells=[cell]))
    return sanitise(body)


def telling_line(source):
    """What a cell defines, or else its first line that is no magic."""
    lines = [line.strip()[:80] for line in source.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(("def ", "class ")):
            return line
    for line in lines:
        if not line.startswith(("%", "!")):
            return line
    return " ".join(lines)[:80]


def cell_record(cell, folder):
    """What pages show of a cell: a dictionary of texts.

    "digest" is the same for the same source; "line" tells what it is. Images that
    Markdown names are taken from `folder`, if they are there.
    """
    words = " ".join(cell.source.split())
    digest = hashlib.sha256(f"{cell.cell_type} {words}".encode()).hexdigest()[:16]
    line = telling_line(cell.source)
    record = {"kind": cell.cell_type, "digest": digest, "line": line, "outputs": ""}
    if cell.cell_type == "code":
        outputs = cut_outputs(cell.outputs)
        bare = {**cell, "source": cut_text(cell.source), "outputs": []}
        record["source"] = render(type(cell)(bare))
        if outputs:
            shown = {**cell, "source": "", "outputs": outputs}
            record["outputs"] = render(type(cell)(shown), hides_input=True)
    else:
        text = embed_images(cut_text(cell.source), folder)
        record["source"] = render(type(cell)({**cell, "source": text}))
    return record


IN_MARKDOWN = re.compile(r"(!\[[^\]]*\]\()([^)\s]+)")
SUFFIXES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif"}


def embed_images(text, folder):
    """Markdown with the images below `folder` that it names in place of their names."""

    def embed(match):
        path = Path(folder, match.group(2)).resolve()
        form = SUFFIXES.get(path.suffix.lower())
        is_inside = path.is_relative_to(Path(folder).resolve())
        if form is None or not is_inside or not path.is_file():
            return match.group()
        if path.stat().st_size > MOST_IMAGE:
            return match.group()
        content = base64.b64encode(path.read_bytes()).decode()
        return f"{match.group(1)}data:image/{form};base64,{content}"

    return IN_MARKDOWN.sub(embed, text)
