/** Light or dark: as the system has it, until the user chooses. */

/** The event of the window after a change, for what CSS does not paint. */
export const THEME_CHANGE = "fanway:theme";

const STORED = "fanway.theme";

export function setUpTheme(button: HTMLElement): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => localStorage.getItem(STORED);
  const isDark = () => (chosen() ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    button.setAttribute("aria-pressed", String(isDark()));
    dispatchEvent(new Event(THEME_CHANGE));
  };
  button.addEventListener("click", () => {
    localStorage.setItem(STORED, isDark() ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  addEventListener("storage", show);
  show();
}
