"""Stands in for `spaars` where only the processes matter. It does what the seed says.

1: finishes with score 50; 2: fails; 3: waits for signals and saves at the first; 4: dies.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

run = Path(sys.argv[sys.argv.index("--out") + 1] if "--out" in sys.argv else sys.argv[2])
seed = int(run.name[1:])
heard = []
if seed == 3:
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
run.mkdir(parents=True, exist_ok=True)
(run / "config.json").exists() or (run / "config.json").write_text('{"config": {}}')
if seed == 2:
    sys.exit("first line\nspaars: error: the disk is on fire\n")
if seed == 3 and sys.argv[1] == "train":
    (run / "waiting").touch()
    while not heard:
        time.sleep(0.01)
    time.sleep(0.3)
    (run / "heard").write_text(json.dumps(heard))
    sys.exit(130)
if seed == 4:
    os.kill(os.getpid(), signal.SIGKILL)
row = {"seed": seed, "final_score": 50.0, "wall_seconds": 90.0}
(run / "summary.json").write_text(json.dumps({"seeds": [row]}))
