// Before anything is painted: the appearance chosen earlier, if any.
try {
  const theme = JSON.parse(localStorage.getItem("twofold.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage that is closed to this page means the system's appearance
}
