#!/usr/bin/env bash
# mmengine-lite 0.10.7: Config.dump writes inf and nan as bare names, and Config.fromfile cannot read the file.
#
# A config may hold float('inf'), such as the norm of gradient clipping or a bound of a metric, and a run dumps its
# config so that it can be run again. The dumped file says `a = inf`, which ends by NameError where it is read. Text
# by Config.pretty_text is the same. A way out is to write '.inf' settings as text, or to add `inf = float('inf')`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps mmengine-lite==0.10.7
"$folder/venv/bin/pip" install --quiet addict==2.4.0 yapf==0.43.0 numpy==2.2.6 rich==14.2.0 termcolor==3.2.0 pyyaml==6.0.3 \
    packaging==25.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from mmengine.config import Config

Config({'clip': {'max_norm': 1.0, 'norm_type': float('inf')}}).dump('dumped.py')
text = open('dumped.py').read()
print(text.strip())
assert text.strip() == 'clip = dict(max_norm=1.0, norm_type=inf)'
try:
    Config.fromfile('dumped.py')
except NameError as error:
    print('read again: NameError:', error)
    assert str(error) == "name 'inf' is not defined"
else:
    raise SystemExit('the dumped file is read now')
PYTHON
