"""Teleoperation: the interface of inputs, the clutch between them and a robot, and the inputs that come with Recede."""
