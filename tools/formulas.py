"""Formulas of Markdown as MathML, which a browser draws without a script.

tools/team.py calls it once for all cells of a team.
"""

import html
import json
import re
import subprocess

import pypandoc

FORMULA = re.compile(  # as in pandoc's Markdown: no blank beside a dollar sign, inside
    r"\$\$(?P<display>[^$]+?)\$\$"
    r"|(?<![\\$\w])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?!\w)"
)
# In code, a dollar sign is one; and no formula spans a tag or lies in one. The
# sanitiser writes values in quotes, and any other "<" as an entity.
NO_TEXT = re.compile(
    r"""(<code>.*?</code>|<pre>.*?</pre>|<(?:[^<>"]|"[^"]*")*>)""", re.DOTALL
)
SECONDS = 60  # for all formulas of a team
PART = re.compile(r"<p>(.*?)</p>", re.DOTALL)
MATHML = set(
    "annotation math menclose merror mfenced mfrac mi mlabeledtr mmultiscripts mn mo "
    "mover mpadded mphantom mprescripts mroot mrow ms mspace msqrt mstyle msub msubsup "
    "msup mtable mtd mtext mtr munder munderover none semantics".split()
)


def typeset(texts):
    """The same HTML texts with formulas as MathML; those that fail stay as they are."""
    found = []
    for text in texts:
        for part in NO_TEXT.split(text)[::2]:
            found += map(formula_of, FORMULA.finditer(part))
    drawn = draw(list(dict.fromkeys(found)))
    return [put_in(text, drawn) for text in texts]


def formula_of(match):
    """("DisplayMath" or "InlineMath", TeX) of a formula in HTML."""
    if match["display"] is not None:
        return "DisplayMath", html.unescape(match["display"]).strip()
    return "InlineMath", html.unescape(match["inline"])


def draw(formulas):
    """{formula: MathML} of those that pandoc understands."""
    if not formulas:
        return {}
    blocks = []
    for kind, tex in formulas:
        math = {"t": "Math", "c": [{"t": kind}, tex]}
        blocks.append({"t": "Para", "c": [math]})
    document = {"pandoc-api-version": [1, 23], "meta": {}, "blocks": blocks}
    command = [pypandoc.get_pandoc_path(), "--from=json", "--to=html", "--mathml"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(document).encode(),
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {}
    parts = PART.findall(done.stdout.decode("utf-8", "replace"))
    if len(parts) != len(formulas):
        return {}
    drawn = {}
    for formula, part in zip(formulas, parts, strict=True):
        tags = set(re.findall(r"</?([a-z]+)", part))
        if "math" in tags and tags <= MATHML:
            drawn[formula] = part
    return drawn


def put_in(text, drawn):
    """HTML with MathML in place of each formula that is drawn."""

    def replace(match):
        return drawn.get(formula_of(match), match.group())

    parts = NO_TEXT.split(text)
    for place in range(0, len(parts), 2):
        parts[place] = FORMULA.sub(replace, parts[place])
    return "".join(parts)
