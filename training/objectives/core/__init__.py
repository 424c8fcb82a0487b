"""What every objective is made of: its interface, its inputs, its settings, the controller."""
