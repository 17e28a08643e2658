"""How action chunks follow one another: between a policy, which plans, and a robot, which needs one action a step."""
