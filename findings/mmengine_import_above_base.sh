#!/usr/bin/env bash
# mmengine-lite 0.10.7 on Python 3.11 and newer: `import os` makes a config "lazy" above `_base_`, but not below it.
#
# The same lines in another order are another kind of config. mmengine takes a file for one of its lazy configs if it
# meets an import of anything but a builtin module before it meets `_base_`. The module os, though part of the standard
# library, does not count as builtin where the interpreter has it frozen (3.11 on), since it has no file there. The file
# is then refused, as an old config may not be the base of a lazy one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'needs Python 3.11 or newer'; exit 1; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps mmengine-lite==0.10.7
"$folder/venv/bin/pip" install --quiet addict==2.4.0 yapf==0.43.0 numpy==2.2.6 rich==14.2.0 termcolor==3.2.0 pyyaml==6.0.3 \
    packaging==25.0
cd "$folder"
echo 'a = 1' > base.py
printf "import os\n_base_ = ['base.py']\nb = os.path.join('x', 'y')\n" > above.py
printf "_base_ = ['base.py']\nimport os\nb = os.path.join('x', 'y')\n" > below.py
"$folder/venv/bin/python" - <<'PYTHON'
from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError

below = Config.fromfile('below.py')
print(f'import os below _base_: a = {below.a}, b = {below.b}')
assert (below.a, below.b) == (1, 'x/y')
try:
    Config.fromfile('above.py')
except ConfigParsingError as error:
    print(f'import os above _base_: ConfigParsingError: {error}'[:110], '...')
else:
    raise SystemExit('both orders are read now')
PYTHON
