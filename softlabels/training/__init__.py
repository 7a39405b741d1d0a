"""Training of teachers and students, and comparison of what was gained."""

from softlabels.training.comparison import ComparedModel, compare
from softlabels.training.curves import plot
from softlabels.training.evaluation import accuracy
from softlabels.training.export import Exported, export_model
from softlabels.training.recipe import Recipe
from softlabels.training.train import train_student, train_teacher

__all__ = [
    "ComparedModel",
    "Exported",
    "Recipe",
    "accuracy",
    "compare",
    "export_model",
    "plot",
    "train_student",
    "train_teacher",
]
