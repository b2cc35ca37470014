"""What tests share: models, boxes, data sets, trainings and pages of the documentation."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
