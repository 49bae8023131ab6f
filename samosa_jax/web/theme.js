// Loaded before the first paint, so that a dark page never flashes light.
const theme = localStorage.getItem("samosa.theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
