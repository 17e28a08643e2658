"""Control a robot with a policy in real time: the loop, its planner, its safety and its log."""
