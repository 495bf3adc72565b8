"""What every room stands on: errors, files, settings, schemas, random streams, statistics."""
