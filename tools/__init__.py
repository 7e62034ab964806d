import sys

# jsonschema would import it, which takes two seconds, for addresses that no notebook holds.
sys.modules.setdefault("rfc3987_syntax", None)
