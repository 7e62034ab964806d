"""Export notebooks to HTML pages that need no network: no scripts, and mathematics as MathML, which browsers draw.

jupyter nbconvert --to tools.webpage.OfflineHTMLExporter NOTEBOOK      from the root of the repository
"""
import re
import subprocess

from nbconvert.exporters import HTMLExporter

from tools.pdf import PANDOC

CODE_OR_FORMULA = re.compile(r"(```.*?```|`[^`]+`)|(\$\$.+?\$\$|\$[^$\n]+\$)", re.DOTALL)


def mathml(formulas):
    """The formulas, each with its dollar signs, as MathML, free of characters that mean something in Markdown."""
    page = subprocess.run([PANDOC, "--from=markdown", "--to=html", "--mathml"], input="\n\n".join(formulas),
                          capture_output=True, check=True, encoding="utf-8").stdout
    drawn = [re.sub(r"[\\`*_~\[\]$]", lambda sign: f"&#{ord(sign[0])};", formula.replace("\n", " "))
             for formula in re.findall(r"<math.*?</math>", page, re.DOTALL)]
    if len(drawn) != len(formulas):
        raise ValueError(f"pandoc read {len(drawn)} of these {len(formulas)} formulas: {formulas}")
    return drawn


class OfflineHTMLExporter(HTMLExporter):
    """nbconvert's HTML page in one file, without require.js, MathJax and Mermaid from the network."""
    export_from_notebook = "HTML without network"

    def from_notebook_node(self, nb, resources=None, **kwargs):
        texts = [cell for cell in nb.cells if cell.cell_type == "markdown"]
        formulas = [match[2] for cell in texts for match in CODE_OR_FORMULA.finditer(cell.source) if match[2]]
        drawn = iter(mathml(formulas) if formulas else [])
        for cell in texts:
            cell.source = CODE_OR_FORMULA.sub(lambda match: match[1] or next(drawn), cell.source)
        page, resources = super().from_notebook_node(nb, resources, **kwargs)
        return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL), resources
