"""What the inputs and outputs of an exported training step are called; read where torch is and where it is not."""

IMAGES, LABELS, LEARNING_RATE, STEP, LOSS = "images", "labels", "learning_rate", "step", "loss"
DROP = "drop"
"""Scales every rate of dropping: 1 as the model says, 0 for none."""
NEW = ".new"
"""Behind an input's name, the output that is its value after the step."""
