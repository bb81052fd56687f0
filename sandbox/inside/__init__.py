"""What runs inside the sandbox. `driver.py` and its helpers import nothing of this project and little else: they are
compiled once at start and run by a bare interpreter, whose start-up time bubblewrap's candidates pay."""
