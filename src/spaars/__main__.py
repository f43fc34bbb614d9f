"""`python -m spaars`: the command line under the name that a reader can paste."""

import sys

from spaars.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "spaars"  # config.json records the command; "__main__.py" is none
    main()
