"""What does the batch size do: to speed, memory, gradient noise, number of updates, and to what is learned?"""
