"""How far a student's features are from the teacher's."""
