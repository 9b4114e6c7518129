"""What every reader must survive: any bytes. Run a module to fuzz its reader with atheris: see `runner`."""
