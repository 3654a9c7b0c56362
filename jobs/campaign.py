"""What `ray job submit -- python jobs/campaign.py --recipe tiny key=value …` starts: `vila2 run` on the job's cluster.

Takes the arguments of `vila2 run` and ends with its exit code: 0 done, 2 a mistake in the configuration or the corpus,
3 another driver runs this campaign, 4 the budget is spent, 1 anything else. The driver is a child of this process and
is started again when it dies, three times in a row without getting further unless `--retries` says otherwise.
It ends when the Ray head that started it is gone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a job's working directory need not be installed

from vila2_ray.cli import main
from vila2_ray.engines.orphans import stop_when_alone

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])
    stop_when_alone()  # Ray ends a job's processes, unless its head is killed
    sys.exit(main(["run", "--retries", "3", *sys.argv[1:]]))
