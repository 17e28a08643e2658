"""Recede: diffusion policies for robot control. Train from demonstrations, evaluate in simulation, deploy."""
