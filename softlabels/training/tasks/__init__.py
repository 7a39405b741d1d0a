"""Tasks: the heads, labels and losses of a run, apart from the loop that trains."""

from softlabels.training.tasks.objective import Loss, Objective, Objectives, Outputs, Term
from softlabels.training.tasks.student import student_task
from softlabels.training.tasks.task import Task
from softlabels.training.tasks.teacher import teacher_task

__all__ = ["Loss", "Objective", "Objectives", "Outputs", "Task", "Term", "student_task", "teacher_task"]
