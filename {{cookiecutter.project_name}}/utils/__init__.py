"""What every part of the project may use: config, errors, seeds, devices."""
