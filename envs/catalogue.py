"""The tasks that come with Recede, and how a task is loaded by its name.

Name a task of your own by its location, "package.module:CONSTANT", on the command line or in your code; or name a
package in `imports=` that adds it with `recede.add_choice`. Any gymnasium environment is a task by its id
(`envs.gymnasium_task`). No checkpoint, exported folder or server decides which modules are imported, so none of them
opens an id either.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..specification import nearest

if TYPE_CHECKING:
    from .task import Task

TASKS: dict[str, str | Task] = {
    "drawer": "recede.envs.tasks.drawer:DRAWER",
    "drawer_image": "recede.envs.tasks.drawer:DRAWER_IMAGE",
    "peg_insertion": "recede.envs.tasks.peg_insertion:PEG_INSERTION",
    "peg_insertion_image": "recede.envs.tasks.peg_insertion:PEG_INSERTION_IMAGE",
    "pick_place": "recede.envs.tasks.pick_place:PICK_PLACE",
    "pick_place_image": "recede.envs.tasks.pick_place:PICK_PLACE_IMAGE",
    "pick_place_arm": "recede.envs.tasks.pick_place:PICK_PLACE_ARM",
    "pick_place_arm_image": "recede.envs.tasks.pick_place:PICK_PLACE_ARM_IMAGE",
    "pick_place_arm_joints": "recede.envs.tasks.pick_place:PICK_PLACE_ARM_JOINTS",
    "pick_place_arm_joints_image": "recede.envs.tasks.pick_place:PICK_PLACE_ARM_JOINTS_IMAGE",
    "push_t": "recede.envs.tasks.push_t:PUSH_T",
    "push_t_image": "recede.envs.tasks.push_t:PUSH_T_IMAGE",
    "pusht": "recede.envs.tasks.pusht:PUSHT",
    "pusht_image": "recede.envs.tasks.pusht:PUSHT_IMAGE",
    "reach": "recede.envs.tasks.reach:REACH",
    "reach_image": "recede.envs.tasks.reach:REACH_IMAGE",
    "reach_arm": "recede.envs.tasks.reach:REACH_ARM",
    "reach_arm_image": "recede.envs.tasks.reach:REACH_ARM_IMAGE",
    "reach_arm_joints": "recede.envs.tasks.reach:REACH_ARM_JOINTS",
    "reach_arm_joints_image": "recede.envs.tasks.reach:REACH_ARM_JOINTS_IMAGE",
    "sort": "recede.envs.tasks.sort:SORT",
    "sort_image": "recede.envs.tasks.sort:SORT_IMAGE",
    "sort_reworded": "recede.envs.tasks.sort:SORT_REWORDED",
    "stack": "recede.envs.tasks.stack:STACK",
    "stack_image": "recede.envs.tasks.stack:STACK_IMAGE",
    "transfer": "recede.envs.tasks.transfer:TRANSFER",
    "transfer_image": "recede.envs.tasks.transfer:TRANSFER_IMAGE",
}
"""Name -> a task, or its location, which is imported when the task is loaded. `recede.add_choice` adds to it."""


def load_task(name: str) -> Task:
    """Load a task by its name, import it from "package.module:CONSTANT", or make it of a "gymnasium:ID".

    Only for names that the user gave; use `known_task` for all others. Raises ValueError for an unknown name, if the
    location holds no task, or if the environment of the id cannot be one.
    """
    from .gymnasium_task import PREFIX, open_gymnasium
    from .task import Task

    if name not in TASKS and name.startswith(PREFIX):
        return open_gymnasium(name)
    if name not in TASKS and (":" not in name or name.startswith((".", ":"))):  # no package is there to be relative to
        raise ValueError(
            "task must be package.module:CONSTANT, gymnasium:ID or one that recede or a package in imports= knows, "
            f"got {name!r}: {nearest(name, TASKS)}"
        )
    entry = TASKS.get(name, name)
    if isinstance(entry, Task):
        return entry
    module, constant = entry.split(":", 1)
    task = getattr(imported_module(module, f"task={name}"), constant, None)
    if not isinstance(task, Task):
        raise ValueError(f"task={name} must be a Task of recede.envs.task, but {module} has {task!r} as {constant!r}")
    return task


def imported_module(module: str, owner: str) -> ModuleType:
    """Import a module that the user named in `owner`, for messages. Raises ValueError if its package is not there."""
    package = module.partition(".")[0]
    if package not in sys.modules and find_spec(package) is None:
        raise ValueError(
            f"{owner}: no module named {package!r}: install it, or put its folder on PYTHONPATH (the current folder is "
            "not searched)"
        )
    return import_module(module)


def known_task(name: Any, *, key: str) -> Task:
    """Load a task that a checkpoint, an exported folder or a server names, only if it is one of `TASKS`.

    key: the key of the command line with which the user may name any task, such as "robot.task".

    Raises ValueError for any other name, and for None.
    """
    if name is None:
        raise ValueError(f"the policy was trained without a task: give {key}=")
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(
            f"the policy was trained for the task {name!r}, which does not come with recede and is not imported "
            f"on the word of a file or a server: if you trust it, add imports=[the package that adds it], or name it "
            f"on the command line with {key}="
        )
    return load_task(name)
