"""`python -m dbqueue.cli`: the command line where no script was installed."""

from dbqueue.cli import main

main()
