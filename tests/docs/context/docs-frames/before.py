from rides import DurationPredicted
