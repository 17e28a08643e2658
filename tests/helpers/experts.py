"""Let the scripted expert of a task act."""

from recede.envs.catalogue import load_task


def finish(name, env, info, *, seed=0, drop=(), fingers, opening):
    """Let the expert end the episode, and set the dimension `fingers` to `opening` in the steps `drop`.

    Returns the states and the last info.
    """
    expert, states, is_over = load_task(name).expert(seed), [info["state"]], False
    while not is_over:
        action = expert(info["state"])
        action[fingers] = opening if len(states) in drop else action[fingers]
        _, _, terminated, truncated, info = env.step(action)
        states.append(info["state"])
        is_over = terminated or truncated
    return states, info
