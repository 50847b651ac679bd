from rides import bus
