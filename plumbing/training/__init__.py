"""What all trainings by Lightning share: checkpoints, exact resumption, setup."""
