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
from urllib.parse import unquote

import bleach
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

# --- Which cell belongs to which task -------------------------------------------------

HEADING = re.compile(
    r"^(?:(?P<marks>#{1,6})[ \t]+(?P<text>.+)"
    r"|\*\*(?P<bold>.+)\*\*"
    r"|<h(?P<level>[1-6])[^<>\n]*>(?P<html>.+)</h[1-6]>)[ \t\r]*$",
    re.MULTILINE | re.IGNORECASE,
)
BOLD = 7  # the level of a line in bold: below all headings
NAMED_TASK = re.compile(r"\b(?:task|exercise|problem)\W*([1-5])\b", re.IGNORECASE)
NUMBERED = re.compile(r"\W*(?:2\.([1-5])\b|([1-5])[.):])")
QUESTION = re.compile(r"(?<![\d.])1\.([1-5])(?!\d)")
# The heading of part 2 has a number, too, and these are behind the last task.
WHOLE_PART = re.compile("identifying land use", re.IGNORECASE)
BEHIND = re.compile(
    r"\b(references|declaration|appendix|beyond the|acknowledg|corrections)",
    re.IGNORECASE,
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
    """(level, text) of each heading in a cell of Markdown, a line in bold included."""
    found = []
    if cell.cell_type != "markdown":
        return found
    for match in HEADING.finditer(cell.source):
        if match["bold"]:
            found.append((BOLD, match["bold"]))
        elif match["marks"]:
            found.append((len(match["marks"]), match["text"]))
        else:
            found.append((int(match["level"]), match["html"]))
    return found


def task_of(heading):
    """The task that a heading opens, "" behind the last one; None if neither."""
    if WHOLE_PART.search(heading):
        return None
    named = NAMED_TASK.search(heading)
    if named:
        return named.group(1)
    numbered = NUMBERED.match(heading)
    if numbered:
        return numbered[numbered.lastindex]
    for task, title in TITLES.items():
        if title.search(heading):
            return task
    if BEHIND.search(heading):
        return ""
    return None


def tasks(cells):
    """The task of each cell, "1" to "5", or "" before the first and behind the last.

    By the headings of the highest level that names two tasks: those below it are of
    steps within a task. Without such a level, by what the cells define.
    """
    for deepest in range(1, BOLD + 1):
        found = tasks_by_headings(cells, deepest)
        if len(set(found) - {""}) >= 2:
            return found
    return tasks_by_names(cells)


def tasks_by_headings(cells, deepest):
    """The tasks by headings of the levels 1 to `deepest`."""
    current = ""
    found = []
    for cell in cells:
        for level, heading in headings(cell):
            task = task_of(heading)
            if level <= deepest and task is not None:
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
        for _, heading in headings(cell):
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


# --- Limits of outputs ----------------------------------------------------------------

MOST_TEXT = 20_000  # characters of one output
MOST_MARKUP = 200_000  # characters of one output in HTML, which is longer than its text
MOST_IMAGE = 4_000_000  # characters of one image in base64
MOST_IMAGES = 8_000_000  # of all images in a cell of Markdown
MOST_OUTPUTS = 40  # of one cell
MOST_LINE = 80  # characters of the line that tells what a cell is
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SVG = "image/svg+xml"  # as an image, its scripts do not run


def cut_outputs(outputs):
    """The outputs without what is too long, which a sentence replaces."""
    cut = [cut_output(output) for output in outputs[:MOST_OUTPUTS]]
    more = len(outputs) - MOST_OUTPUTS
    if more > 0:
        cut.append(output_note(f"{more} more outputs of this cell are left out."))
    return cut


def cut_output(output):
    if output.output_type == "stream":
        return new_output("stream", text=cut_text(output.text))
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
    if SVG in data:
        content = base64.b64encode(data[SVG].encode()).decode()
        return cut_image(SVG, content, output)
    for form in ("text/html", "text/markdown", "text/latex"):
        text = data.get(form, "")
        if 0 < len(text) <= MOST_MARKUP and has_content(text):
            return new_output("display_data", data={form: text})
    if "text/plain" in data:
        text = cut_text(data["text/plain"])
        return new_output("display_data", data={"text/plain": text})
    forms = ", ".join(sorted(data))
    return output_note(f"An output that is not shown here: {forms[:200]}.")


def has_content(text):
    """Is anything left of this HTML without scripts?"""
    left = without_hidden(text)
    return "<img" in left or re.sub("<[^<>]*>", "", left).strip() != ""


def cut_image(form, content, output):
    content = re.sub(r"\s", "", content)
    if len(content) > MOST_IMAGE:
        megabytes = len(content) / 1e6
        return output_note(f"An image of {megabytes:.0f} MB is left out.")
    alt = output.get("metadata", {}).get(form, {}).get("alt", "")
    address = f"data:{form};base64,{content}"
    image = f'<img src="{html.escape(address)}" alt="{html.escape(str(alt))}">'
    return new_output("display_data", data={"text/html": image})


def cut_text(text, most=MOST_TEXT):
    """The first `most` characters, and the sentence that there were more."""
    if len(text) <= most:
        return text
    left_out = len(text) - most
    return f"{text[:most]}\n[{left_out:,} more characters are left out here.]"


def output_note(sentence):
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
# Some name a JPEG so, and base64 may have lines: browsers show both.
IMAGE_ADDRESS = re.compile(
    r"data:image/(png|jpe?g|gif|webp|svg\+xml);base64,[\w+/=\s]+", re.ASCII
)
# The cleaner writes values in quotes, in which a ">" is no end of the tag.
IMAGE_TAG = re.compile(r'<img(?:\s[^\s<>="]+="[^"]*")*\s*>')
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
    return IMAGE_TAG.sub(finish_image, clean).strip()


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
    lines = [line.strip()[:MOST_LINE] for line in source.splitlines() if line.strip()]
    for line in lines:
        if line.startswith(("def ", "class ")):
            return line
    for line in lines:
        if not line.startswith(("%", "!")):
            return line
    return " ".join(lines)[:MOST_LINE]


def is_asked_for(cell):
    """Does it define what a task asks for? The template gives Trainer as it is."""
    for words in DEFINES.values():
        for match in words.finditer(cell.source):
            if match.group() != "class Trainer":
                return True
    return False


def digest_of(cell):
    """The same for the same source; "" for a cell that each team has to write."""
    if is_asked_for(cell):
        return ""
    words = " ".join(cell.source.split())
    return hashlib.sha256(f"{cell.cell_type} {words}".encode()).hexdigest()[:16]


def cell_record(cell, folder, root):
    """What pages show of a cell: a dictionary of texts.

    "digest" is the same for the same source, "" if the cell is never folded; "line"
    tells what it is. Images that Markdown names in `folder`, that of the notebook, are
    taken from the files below `root`, the clone.

    Rendered are new cells with its text and outputs alone: nbconvert refuses a cell
    whose id, metadata or other keys are not as it wants them.
    """
    line = telling_line(cell.source)
    record = {"kind": cell.cell_type, "line": line, "outputs": ""}
    record["digest"] = digest_of(cell)
    if cell.cell_type == "code":
        outputs = cut_outputs(cell.outputs)
        record["source"] = render(new_code_cell(cut_text(cell.source)))
        if outputs:
            shown = new_code_cell(outputs=outputs)
            record["outputs"] = render(shown, hides_input=True)
    else:
        text = cut_around_images(embed_images(cell, Path(folder), Path(root)))
        record["source"] = render(new_markdown_cell(text))
    return record


# --- Images of Markdown ---------------------------------------------------------------

IMAGE = re.compile(
    r"!\[[^\[\]]{0,1000}\]\([^()\s]+(?:[ \t][^()\n]*)?\)|<img\b[^<>]*>", re.IGNORECASE
)
IMAGE_NAME = re.compile(
    r"""\]\((?P<markdown>[^()\s]+)|\ssrc\s*=\s*["'](?P<html>[^"']+)["']""",
    re.IGNORECASE,
)
ATTACHMENT = "attachment:"
SUFFIXES = {
    ".gif": "gif",
    ".jpeg": "jpeg",
    ".jpg": "jpeg",
    ".png": "png",
    ".svg": "svg+xml",
    ".webp": "webp",
}


def cut_around_images(text):
    """Markdown that is cut as any text, but for its images, which do not count."""
    end = MOST_TEXT
    for image in IMAGE.finditer(text):
        if image.start() < end:
            end += len(image.group())
    return cut_text(text, end)


def embed_images(cell, folder, root):
    """The text of a cell of Markdown, with its images in place of their names.

    Those that are too large, alone or together, become a sentence.
    """
    left = MOST_IMAGES

    def embed(match):
        nonlocal left
        image = match.group()
        found = IMAGE_NAME.search(image)
        if found is None:
            return image
        if left <= 0:
            return "[An image is left out: this cell has too many.]"
        address = address_of(found[found.lastgroup], cell, folder, root)
        if address is None:
            # The sanitiser says that it is not there; the exporter would refuse it.
            return image.replace(ATTACHMENT, "")
        left -= len(address)
        if len(address) > MOST_IMAGE:
            return "[An image is left out: it is too large.]"
        start, end = found.span(found.lastgroup)
        return f"{image[:start]}{address}{image[end:]}"

    return IMAGE.sub(embed, cell.source)


def address_of(name, cell, folder, root):
    """An address that holds the image of this name; None if there is none."""
    if name.startswith("data:"):
        return name
    if name.startswith(ATTACHMENT):
        attachments = cell.get("attachments", {})
        return attached(attachments.get(unquote(name.removeprefix(ATTACHMENT)), {}))
    try:
        path = Path(folder, unquote(name)).resolve()
        form = SUFFIXES.get(path.suffix.lower())
        is_inside = path.is_relative_to(root.resolve())
        if form is None or not is_inside or not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(MOST_IMAGE)  # as base64, this many are too many
    except (OSError, ValueError):  # a name that no file can have
        return None
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"


def attached(forms):
    """The address of an attachment, given as {form: content}; None if no image."""
    for form in (*IMAGES, SVG):
        if form in forms:
            content = re.sub(r"\s", "", forms[form])
            return f"data:{form};base64,{content}"
    return None
