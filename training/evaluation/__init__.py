"""The paper's evaluation (Sec. 4.2): generates and scores the images of one method."""
