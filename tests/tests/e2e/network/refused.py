"""Lists the network.refused of `stats --json` or `status --json`, each kind once."""

import json
import sys

KEYS = "reason", "protocol", "address", "port", "name"

document = json.load(sys.stdin)
document = document[0] if isinstance(document, list) else document
refused = document["network"]["refused"]
for line in sorted({" ".join(str(one[key]) for key in KEYS if key in one) for one in refused}):
    print(line)
