"""``python -m softlabels_cli``: the same as the ``softlabels`` command."""

from softlabels_cli.main import main

if __name__ == "__main__":
    main()
