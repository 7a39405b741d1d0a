"""Training teachers and students, and showing what was gained."""

from softlabels.training.comparison import ComparedModel, compare
from softlabels.training.evaluation import accuracy
from softlabels.training.recipe import Recipe
from softlabels.training.runs import train_student, train_teacher

__all__ = ["ComparedModel", "Recipe", "accuracy", "compare", "train_student", "train_teacher"]
