"""What every block is written with: configs, operations and the builder they are lowered into."""
