"""What a run would be, said without starting anything: its settings, its steps, its memory and its arithmetic."""
