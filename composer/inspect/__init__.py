"""Looking into trained models: what their steps, their depth attention and their experts do."""
