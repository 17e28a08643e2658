"""Episodes of executions, step by step, with chunks whose actions say where they come from."""

import numpy as np


def observation(step):
    return {"state": np.array([step, -step], dtype=np.float32), "image": np.full((2, 2, 3), step, dtype=np.uint8)}


def chunk(number, horizons):
    """Chunk `number`: its action at index i is (number, i)."""
    return np.array([(number, index) for index in range(horizons.prediction)], dtype=np.float32)


def run(execution, num_steps, *, delay=0, answer=chunk):
    """The request of each step (or None), and its action; a chunk is named after the step of its request.

    A chunk arrives `delay` steps after its request; the robot waits for the first one.
    """
    requests, actions, coming = [], [], None
    for step in range(num_steps):
        execution.observe(observation(step))
        if coming is not None and step - coming[0] >= delay:
            execution.accept(coming[1])
            coming = None
        request = execution.request()
        requests.append(request)
        if request is not None:
            coming = step, answer(step, execution.horizons)
            if step == 0 or delay == 0:
                execution.accept(coming[1])
                coming = None
        actions.append(tuple(execution.act()))
    return requests, actions


def request_steps(requests):
    return [step for step, request in enumerate(requests) if request is not None]
