"""What tests share."""

from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
