"""What all trainings with Lightning share: checkpoints, exact resumption, setup and bars."""
