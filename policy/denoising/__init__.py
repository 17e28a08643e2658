"""The mathematics of denoising: schedules, predictions, samplers and guidance."""
