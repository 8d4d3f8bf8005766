"""``python -m t2l`` is the command ``t2l``."""

from t2l.cli import main

if __name__ == "__main__":
    main()
