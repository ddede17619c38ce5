"""What commands share: options, output, progress, files, errors on the terminal."""
