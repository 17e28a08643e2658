"""The tasks that come with recede, and how a task's name becomes a task.

Your own task is named by its place, "package.module:CONSTANT", and only on the command line or in your own code, or
added by a package that is named there (`recede.add_choice`): no checkpoint, exported folder or server decides what is
imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..specification import nearest

if TYPE_CHECKING:
    from .task import Task

TASKS: dict[str, str | Task] = {
    "pick_place": "recede.envs.tasks.pick_place:PICK_PLACE",
    "pick_place_image": "recede.envs.tasks.pick_place:PICK_PLACE_IMAGE",
    "pusht": "recede.envs.tasks.pusht:PUSHT",
    "pusht_image": "recede.envs.tasks.pusht:PUSHT_IMAGE",
}
"""Name -> the place of a task, which is imported when the task is first used, or the task itself.

`recede.add_choice` adds yours.
"""


def load_task(name: str) -> Task:
    """The task of that name, or your own at "package.module:CONSTANT", whose module is imported.

    Only for names that the user gave; `known_task` is for all others. Raises ValueError for an unknown name, and if
    there is no task at that place.
    """
    from importlib import import_module

    from .task import Task

    if name not in TASKS and ":" not in name:
        raise ValueError(
            f"task must be package.module:CONSTANT, or one that recede or a package in imports= knows, got {name!r}: "
            + nearest(name, TASKS)
        )
    place = TASKS.get(name, name)
    if isinstance(place, Task):
        return place
    module, constant = place.split(":", 1)
    task = getattr(import_module(module), constant, None)
    if not isinstance(task, Task):
        raise ValueError(f"task={name} must be a Task of recede.envs.task, but {module} has {task!r} as {constant!r}")
    return task


def known_task(name: Any, *, key: str) -> Task:
    """The task that a checkpoint, an exported folder or a server says its policy was trained for.

    It is loaded only if it is one of `TASKS`. key: of the command line, which may name any task, such as "robot.task".
    Raises ValueError for any other name, and for None.
    """
    if name is None:
        raise ValueError(f"the policy was trained without a task: give {key}=")
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(
            f"the policy was trained for the task {name!r}, which does not come with recede and is not imported "
            f"because a file or a server says so: if you trust it, add imports=[the package that adds it], or name it "
            f"on the command line with {key}="
        )
    return load_task(name)
