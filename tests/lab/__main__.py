# Entry of `./lab`. Python put this directory first on the path; its parent belongs there, so that `lab` is a package.
import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lab.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
