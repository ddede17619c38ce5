"""Training: a run is a folder, from which a killed training resumes."""
